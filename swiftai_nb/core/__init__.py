"""The vocabulary every floor shares: errors, config, progress, image, recipe, generator."""
