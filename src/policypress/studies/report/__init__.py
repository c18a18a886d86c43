"""What a study gave, as one page: ``results`` takes it out of the store, ``sections`` says it in tables and ``charts``
(``document``: what they are made of), ``page``, ``text`` and ``csv`` write them. ``paper``: published points to set
beside it. No figure is computed here: ``studies.statistics`` and ``measure.scores`` do that."""
