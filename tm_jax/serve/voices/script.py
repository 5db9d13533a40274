"""A scripted character: patterns and answers from a text file.  It is a script and no language model.

    # a comment
    greeting: Hello!                       what is said when a call begins; may be left out
    name / who are you -> I am a drawing.  | You may call me Pia.
    * -> I know only a few words.          when nothing else fits

Left of the arrow are alternatives, split by slashes; one fits if all its words were heard, in any order.
The alternative with the most words wins, then the earlier line.  Right of it are answers, split by bars,
given in turn.
"""

import dataclasses
import re
from pathlib import Path

from tm_jax.errors import InputError

SHIPPED = Path(__file__).with_name("script.txt")


def words(text: str) -> frozenset[str]:
    """The words of a text, lower case."""
    return frozenset(re.findall(r"[\w']+", text.lower()))


@dataclasses.dataclass
class Rule:
    """One line of the script."""

    patterns: tuple[frozenset[str], ...]
    """Any of these sets of words; an empty one always fits."""
    answers: tuple[str, ...]
    given: int = 0
    """Answers given so far."""

    def fit(self, recognized: frozenset[str]) -> int:
        """Words of the best alternative that fits; -1 for none."""
        return max((len(pattern) for pattern in self.patterns if pattern <= recognized), default=-1)


class Script:
    """A character's answers."""

    def __init__(self, path: Path = SHIPPED):
        """Reads and checks the file.

        Raises:
          InputError: it cannot be read, has a line that is no rule, or no ``*`` line.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The script {path} cannot be read ({error}): give a UTF-8 text file.") from None
        self.greeting, self._rules = "", []
        for number, line in enumerate(lines, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            if line.lower().startswith("greeting:"):
                self.greeting = line.split(":", 1)[1].strip()
                continue
            left, arrow, right = line.partition("->")
            answers = tuple(answer.strip() for answer in right.split("|") if answer.strip())
            parts = [part.strip() for part in left.split("/")]
            patterns = tuple(words("" if part == "*" else part) for part in parts)
            empty = sum(not pattern for pattern in patterns) != parts.count("*")
            if not arrow or not answers or empty:
                raise InputError(f"Line {number} of the script {path} is no rule: write words -> answer.")
            self._rules.append(Rule(patterns, answers))
        if not any(frozenset() in rule.patterns for rule in self._rules):
            raise InputError(f"The script {path} has no line for everything else: add * -> an answer.")

    def answer(self, recognized: str) -> str:
        """What the character says to what was heard."""
        said = words(recognized)
        rule = max(self._rules, key=lambda rule: rule.fit(said))
        rule.given += 1
        return rule.answers[(rule.given - 1) % len(rule.answers)]
