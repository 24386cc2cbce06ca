"""What is written: results folders, reports, pictures, DICOM and scene files."""
