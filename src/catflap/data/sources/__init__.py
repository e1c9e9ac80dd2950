"""Where photos come from: folders, lists, archives, stores; one reference a photo."""
