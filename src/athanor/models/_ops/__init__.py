"""Door package of helpers at the addresses that wrappers of third parties import."""
