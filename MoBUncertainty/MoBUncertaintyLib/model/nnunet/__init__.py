"""What nnU-Net itself writes and reads: plans, descriptions of data sets, training folders."""
