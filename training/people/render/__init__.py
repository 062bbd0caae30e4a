"""Pictures of a shot: one arithmetic, an engine for the processor and one for CUDA cards."""
