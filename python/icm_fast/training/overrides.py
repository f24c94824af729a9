"""What the trainers here replace in transformers and trl; a test asserts that it exists there."""

FIXED_BATCHES = (
    *("get_train_dataloader", "training_step", "compute_loss", "evaluate"),
    "create_model_card",
)
"""Methods of ``transformers.Trainer`` and trl's trainers that :mod:`.steps` replaces."""

REINFORCEMENT = (
    *("training_step", "create_model_card"),
    *("_tokenize_prompts", "_generate_single_turn"),
)
"""Methods of ``trl.GRPOTrainer`` and ``trl.RLOOTrainer`` that :mod:`.rl.trainer` replaces."""

PRIVATE = ("_tokenize_prompts", "_generate_single_turn")
"""Those without a public counterpart: trl has no other way to hand over token ids of prompts, nor
to sample a part of them at a time."""

ATTRIBUTES = ("accelerator", "model", "processing_class", "state", "args")
"""Attributes of every trainer that are used here; of reinforcement learning ``beta`` too,
and ``eos_token_ids``, which trl 1.0 lacks."""

PREFERENCES = ("_prepare_dataset",)
"""Methods of ``trl.DPOTrainer`` that :mod:`.dpo.trainer` replaces: it would tokenize texts."""

MARK = "_is_fsdp_managed_module"
"""Attribute by which transformers knows models that it divided itself; :mod:`.sharded` sets it, so
that processes sample together from a policy that accelerate divided."""

CALLED = ("_load_from_checkpoint",)
"""Private methods of ``transformers.Trainer`` that :mod:`.steps` calls: it reads the best weights.
Of ``trl.DPOTrainer``, :mod:`.dpo.trainer` reads ``_metrics``; of accelerate's ``GradientState``
:mod:`.steps` calls ``_set_sync_gradients``."""
