"""Visual tracking: an energy of boxes refines the boxes of a coarse tracker."""
