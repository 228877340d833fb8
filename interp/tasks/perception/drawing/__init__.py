"""What the procedural tasks draw with: canvas, shapes, colours, textures, marks."""
