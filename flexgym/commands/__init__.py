"""Commands about judges: ask one, compare samples, calibrate, serve."""
