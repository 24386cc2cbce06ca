"""The worklist: the cases of a folder or of the DICOM database, predicted in the background and reviewed one by one."""
