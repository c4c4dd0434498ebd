"""Operations on density maps: files, FSC, masks, alignment, symmetry, sharpening, local resolution, coverage."""
