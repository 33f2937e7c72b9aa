"""What is deployed: entry points that compose and run, with no logic of their own."""
