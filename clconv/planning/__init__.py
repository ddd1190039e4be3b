"""Which kernel to run: profiles of devices, designs by cost, records of what was measured."""
