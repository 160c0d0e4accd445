"""Object detectors: boxes, anchors, loss, networks, data, augmentation, mean precision."""
