"""The parts that all experiments share: the runner, reports, figures."""
