"""What proves a ring right: for this project's tests and for those of plugin authors."""
