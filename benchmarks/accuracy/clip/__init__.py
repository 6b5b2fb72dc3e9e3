"""The STA paper's own experiments on CLIP: fine-tune, merge, forget, and count what is classified rightly."""
