"""Object detectors: boxes, anchors, matching, loss, networks, data, augmentation and mean precision."""
