"""Contract kits that anybody can run on a model, an engine or a sink of their own, and small systems to run them on."""
