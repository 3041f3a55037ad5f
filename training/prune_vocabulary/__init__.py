"""Take the tokens out of a checkpoint that its texts never use."""
