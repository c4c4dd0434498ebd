"""Images of several molecules: evidence of classes, shares, and a generic body as the alternative to all of them."""
