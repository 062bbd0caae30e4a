"""Post-processing of rendered frames: camera effects, face masks, occluders, video files."""
