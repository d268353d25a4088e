"""The stores of system_config, and how what is asked of them is carried out."""
