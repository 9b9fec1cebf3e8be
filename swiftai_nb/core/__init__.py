"""Types that all other packages use: errors, configuration, progress, images, recipes, generators, tasks."""
