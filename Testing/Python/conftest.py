pytest_plugins = ["desktop.isolation"]
