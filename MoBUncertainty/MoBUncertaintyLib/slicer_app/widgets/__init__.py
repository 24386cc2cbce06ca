"""What the panel's sections, its dialogs and the worklist share: widgets, tables, dialogs, buttons of work."""
