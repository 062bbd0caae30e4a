"""Evaluation: metrics, errors, calibration and statistics of detections, and the reports made of them."""
