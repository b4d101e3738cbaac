"""One HTML file about runs and judges: settings, curves, samples, assessments, reward hacking, time and cost."""
