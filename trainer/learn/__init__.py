"""Learning, stage by stage: collate, forward, loss, step, track."""
