"""CLIP made dense: masks for any words."""
