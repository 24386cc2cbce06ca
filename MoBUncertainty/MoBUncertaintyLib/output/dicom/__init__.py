"""Results as DICOM objects that belong to the CT they were made from."""
