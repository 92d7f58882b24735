"""RetinaNet and Mask R-CNN guided by words."""
