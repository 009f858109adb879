"""Jobs on other machines that leave what they did in a folder: what is common to all engines."""
