"""Whether a classifier's accuracy on labelled photographs is at chance level, which suggests a wrong setting."""

from scipy.stats import binom

AT_CHANCE = (
    "the network is right no more often than guessing would be: is the normalisation that of its training (model.mean, "
    "model.std), and do its classes and the labels count alike (model.categories, model.first_class, data.first_class)?"
)
"""The warning where `at_chance` holds."""

_LEVEL = 0.01


def at_chance(correct: int, labelled: int, classes: int) -> bool:
    """Whether the accuracy is that of guessing, and not that of a working network.

    Two exact binomial tests, each at 1%: guessing among all classes, 1/K, is not rejected; and an accuracy half way
    between guessing and perfection, (1 + 1/K) / 2, is. Few photographs reject neither, and the result is False: of
    1000 classes, seven photographs are the first that can say it (none is right), and of two classes, 11 of 22 right.

    Args:
        correct: photographs that are classified as labelled.
        labelled: photographs with a label and a prediction, at least `correct`.
        classes: K, the number of classes that the network tells apart.
    """
    if classes < 2:
        return False
    guessing = 1 / classes
    guessed = binom.sf(correct - 1, labelled, guessing) > _LEVEL
    works = binom.cdf(correct, labelled, (1 + guessing) / 2) > _LEVEL
    return bool(guessed and not works)
