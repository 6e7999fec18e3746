"""How ``lib.jobs.sqlite_store`` keeps jobs on disk: the files, the schema, the rows and the two threads."""
