"""What happens to clean pictures: camera, face masks, occluders, files."""
