"""Five real tasks that are made of what package registries hold."""
