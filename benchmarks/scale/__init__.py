"""How it grows: with workers, tasks, sizes, objects, time."""
