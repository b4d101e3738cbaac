"""A comparison of training speed with the training script of github.com/yifan123/flow_grpo."""
