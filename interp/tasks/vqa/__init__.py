"""Visual question answering: questions about pictures with the answers of people, and question types as tasks.

VQAv2 and OK-VQA are read from the user's own files (`files`), easy-vqa from its package (`easy`), and questions about
the pictures that come with this package are made (`pictures`). `types` groups questions by their text and makes a task
of each group: picture in, answer out, and the question itself is not written.
"""

from interp.tasks.vqa.easy import easy_questions
from interp.tasks.vqa.files import Question, QuestionSet, read_questions
from interp.tasks.vqa.pictures import picture_questions
from interp.tasks.vqa.scoring import normalise_answer, vqa_accuracy
from interp.tasks.vqa.types import EASY_TYPES, FILE_TYPES, PICTURE_TYPES, TypeTask, question_type, type_task

__all__ = [
    "EASY_TYPES",
    "FILE_TYPES",
    "PICTURE_TYPES",
    "Question",
    "QuestionSet",
    "TypeTask",
    "easy_questions",
    "normalise_answer",
    "picture_questions",
    "question_type",
    "read_questions",
    "type_task",
    "vqa_accuracy",
]
