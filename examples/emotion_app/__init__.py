"""An interview goes in; how often its speaker touches face or body and moves head and legs comes out. No emotions."""
