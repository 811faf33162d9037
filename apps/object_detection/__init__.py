"""Object detection: a one-stage detector for devices, and Faster R-CNN."""
