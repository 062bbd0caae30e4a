"""An interview goes in; how often its speaker touches himself, moves head and legs, comes out. Movements, no emotions."""
