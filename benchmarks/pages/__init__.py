"""The figures of the documentation, made from records: ``python benchmarks/results_page.py``.

A table between ``<!-- table: name -->`` and ``<!-- end -->`` is what the function registered under
that name returns. A figure in the text is what a claim says it is: ``claims`` names a page and a
section and yields ``("{} points ahead at 95 %", value)``; each ``{}`` stands for a number of the
page, which must be the value rounded as it is shown. One file of ``sections/`` holds the tables and
claims of one section.
"""
