"""The names that data sets give to what a task reads, as `minilm.tasks.layouts.usual` has them."""

from __future__ import annotations

import re

# texts, in the order in which two of them are read
TEXTS = (
    *("question", "query", "question1", "q1", "question_title"),
    *("title", "headline", "review_title", "parent_comment"),
    *("sentence1", "sent1", "premise", "text1", "text_a", "sentence_a", "s1", "1_string", "anchor"),
    "claim",
    *("text", "sentence", "tweet", "review", "comment", "comment_text", "message", "sms", "input"),
    *("utterance", "document", "abstract", "article", "paragraph", "passage", "context"),
    *(
        "content",
        "description",
        "body",
        "review_body",
        "review_text",
        "question_content",
        "question_body",
    ),
    *("answer", "best_answer", "response", "evidence", "summary"),
    *("text_pair", "sentence2", "sent2", "hypothesis", "question2", "q2", "text2", "text_b"),
    *("sentence_b", "s2", "2_string", "positive", "aspect", "aspect_term", "term"),
)
# columns that say which words of the texts are meant: what nothing here reads
MARKED_WORDS = (("span1_text", "span2_text"), ("word", "start1", "start2"))
CLASSES = (
    *("labels", "class", "intent", "score", "target", "category", "gold_label", "label_name"),
    *("coarse_label", "fine_label", "label_coarse", "label_fine", "sentiment", "emotion", "stars"),
    *(
        "rating",
        "class_index",
        "is_duplicate",
        "quality",
        "entailment_judgment",
        "stance",
        "answer",
        "label_text",
    ),
)
VALUES = (
    *("score", "similarity", "similarity_score", "relatedness", "relatedness_score", "target"),
    *("value", "rating", "stars", "labels"),
)
LABEL_SETS = ("label", "tags", "topics", "categories", "genres", "emotions", "classes", "intents")
WORDS = ("words", "token", "word")
# kinds of tags, the first one is meant
TAGS = (
    *("ner_tags", "ner", "ner_labels", "iob_tags", "slots", "slot_labels", "labels", "label"),
    *("upos", "upos_tags", "pos", "pos_tags", "xpos", "chunk_tags"),
)
INTENTS = ("label", "intents", "intent_label", "class", "category")
QUESTIONS = ("query",)
CONTEXTS = ("passage", "paragraph", "article", "document", "text")
# what comes before the choices, in the order in which it is read
PROMPTS = (
    *("article", "passage", "paragraph", "context", "ctx", "document", "story", "premise", "sent1"),
    *("text", "sentence", "question", "query", "question_stem", "stem", "goal", "sent2"),
)
CHOICES = ("endings", "options", "candidates", "candidate_answers", "answers")
RIGHT_CHOICE = (
    *("answerkey", "answer_key", "answer", "correct_answer_id", "correct_answer_idx"),
    *("correct_option", "answer_idx", "answer_index", "gold"),
)
ONE_CHOICE_A_COLUMN = re.compile(
    r"(?:ending|choice|option|answer|sol|solution|alternative|candidate)_?([0-9]|[a-h])"
)
