"""Known truth: samples, point spread functions, cameras -> simulated raw pairs of three systems."""
