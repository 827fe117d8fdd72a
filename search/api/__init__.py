"""What Python code calls: `bo_distill.run`, `bo_distill.open` and what they return. The commands are thin over it."""
