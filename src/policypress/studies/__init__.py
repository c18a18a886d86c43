"""Studies: a file describes a grid of runs, a driver has them done, a database keeps what came of them.

``study_file`` reads the file into ``cells``; ``store`` is the database; ``driver`` claims cells and gives them to a
place (``places``: threads here, or Ray) that makes each an ``attempt``, a subprocess ``tied`` to it; ``standing`` says
how far a study is, ``statistics`` what its runs say together, ``export`` writes them. None of it imports torch.
"""
