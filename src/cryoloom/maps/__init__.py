"""What one does with a density map: files, FSC, masks, alignment, symmetry, sharpening, local resolution, coverage."""
