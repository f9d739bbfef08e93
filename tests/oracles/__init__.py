"""What the tests compare against: registries of everything, and independent computations."""
