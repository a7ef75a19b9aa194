"""Parts of a report that stand in a page of others, such as that of pytest-html."""
