"""Generate rendered videos of seated people who perform micro-actions, with exact labels."""
