"""Example application: movement features of an interview per minute (self-touch, head, legs). It infers no emotions."""
