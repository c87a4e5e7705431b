// The page's words in Chinese, by the English ones.

export const ZH = {
  // the frame
  "To the message box": "跳到输入框", Conversations: "对话", "New conversation": "新对话", Search: "搜索", "Search conversations": "搜索对话",
  "Kept in this browser only": "仅保存在此浏览器中", "Title of this conversation": "对话标题", "Compare two answers": "比较两个回答", Settings: "设置",
  "What shall we look into?": "想聊点什么？", "To the end": "跳到最新", "Write a message": "输入消息", Message: "消息", Send: "发送", Stop: "停止",
  "Answers are AI-generated and may be wrong.": "回答由人工智能生成，可能有误。", Close: "关闭", Keyboard: "键盘快捷键", Cancel: "取消", Undo: "撤销",
  Today: "今天", Yesterday: "昨天", "Last 7 days": "最近七天", Earlier: "更早", "Nothing found": "没有找到", "Conversations will be listed here.": "对话会列在这里。",
  "Delete “{title}”": "删除“{title}”", "Conversation deleted": "对话已删除",
  "Explain what a mixture of experts is, to a child.": "给小朋友解释一下什么是混合专家模型。", "Write a haiku about a small seed.": "写一首关于小种子的俳句。",
  "What can I cook from rice and two eggs?": "米饭和两个鸡蛋能做什么菜？",
  // messages
  You: "你", Answer: "回答", "AI-generated": "AI 生成", Copy: "复制", Edit: "编辑", "Edit message": "编辑消息", "Copy answer": "复制回答", "Copy code": "复制代码",
  Code: "代码", text: "文本", "Answer again": "重新回答", "Go on with this answer": "继续这个回答", "Version {n} of {all}": "第 {n} 个版本，共 {all} 个",
  "Earlier version": "上一个版本", "Later version": "下一个版本", "Waiting for the first token": "等待第一个词元", "Thinking… {n} s": "思考中… {n} 秒", "Thought for {n} s": "思考了 {n} 秒",
  stopped: "已停止", "ended by the token limit": "达到词元上限", "The answer is complete.": "回答已完成。", "The server's content filter ended this answer.": "服务器的内容过滤器结束了这个回答。",
  "Two answers to compare": "两个可比较的回答", "Goes on from here": "从这里继续", "Go on from this one": "改从这个继续",
  "The next message gets two answers. Set what differs in B.": "下一条消息将得到两个回答。请在 B 中设置不同之处。",
  // figures
  "{n} tokens": "{n} 个词元", "Tokens of this answer": "本回答的词元数", "of which {n} were thinking": "其中思考用了 {n} 个", "{n} tokens/s": "{n} 词元/秒", "After the first token": "首个词元之后",
  "first after {n} s": "首个 {n} 秒", "Time to first token": "到首个词元的时间", "{n} of {all} cached": "缓存命中 {n}/{all}", "Prompt tokens that the server had computed before": "服务器此前已算过的提示词元",
  "Electricity for {n} s": "{n} 秒的电费", "By your prices": "按你填写的价格",
  // what goes wrong
  "Too many requests": "请求过多", "The server is busy": "服务器繁忙", "No connection": "没有连接", "Refused ({status})": "被拒绝（{status}）", "Something went wrong": "出错了",
  "Try again": "重试", "Try again in {n} s": "{n} 秒后可重试", "Enter a key": "填写密钥", "The server cannot be reached.": "无法连接到服务器。",
  "The connection broke before the answer was complete.": "回答完成之前连接中断了。", "This answer was cut off when the page closed.": "页面关闭时这个回答被中断了。",
  "This browser window keeps no history: conversations last as long as the page.": "此浏览器窗口不保存历史：关闭页面后对话即消失。",
  // tools
  Tools: "工具", "Tool call {name}": "工具调用 {name}", Arguments: "参数", Result: "结果", "Result of {name}": "{name} 的结果", "Send results": "发送结果",
  // tokens and experts
  "Tokens and probabilities": "词元与概率", "Tokens; arrow keys move": "词元；用方向键移动", "Likeliest tokens": "最可能的词元", "{n} tokens, perplexity {p}": "{n} 个词元，困惑度 {p}",
  "Experts that computed this token": "计算该词元的专家", Layer: "层", "Expert and weight": "专家与权重", Experts: "专家", "Use of experts by layer": "各层专家的使用",
  "layer {layer}: expert {expert} most often": "第 {layer} 层：专家 {expert} 最常用",
  "Rows are layers {first} to {last}, columns experts 0 to {end}; stronger: used more often in this answer ({used} of {all}). Outlined: the chosen token's.":
    "行为第 {first} 至 {last} 层，列为专家 0 至 {end}；颜色越深，在本回答中用得越多（共用到 {used}/{all} 个）。描边者属于所选词元。",
  // settings
  "Settings of": "设置对象", "Answer {side}": "回答 {side}", Model: "模型", "System prompt": "系统提示", "You are …": "你是……", "Most tokens": "最多词元", "until the context is full": "直到上下文用满",
  Thinking: "思考", default: "默认", on: "开", off: "关", Effort: "力度", "not set": "未设置", low: "低", medium: "中", high: "高", highest: "最高",
  Sampling: "采样", Temperature: "温度", Seed: "随机种子", random: "随机", "Repetition penalty": "重复惩罚", "Presence penalty": "出现惩罚", "Frequency penalty": "频率惩罚",
  "Stop strings": "停止字符串", "One a line; the answer ends before it.": "每行一个；回答在它之前结束。", "Tools and form": "工具与格式", "JSON schema of the answer": "回答的 JSON 模式", "Give a JSON object.": "请给出一个 JSON 对象。",
  "Give a list of tools as OpenAI has them.": "请按 OpenAI 的格式给出工具列表。", "A JSON list. You answer the calls yourself; the page runs nothing.": "JSON 列表。调用由你自己回答，页面不会运行任何东西。",
  "Put in an example": "填入示例", Calls: "调用", "if the model wants to": "由模型决定", required: "必须", none: "不用",
  "For model builders": "给模型开发者", "Record tokens": "记录词元", "Log-probabilities and alternatives, shown by the button below an answer.": "对数概率与备选词元，由回答下方的按钮显示。",
  "Alternatives a token": "每个词元的备选数", "Record experts": "记录专家", "{k} of {n} in each of {l} layers": "{l} 层中每层 {n} 选 {k}", "This model is dense: it has no experts.": "这个模型是稠密的，没有专家。",
  Cost: "费用", "Reckoned by": "计算方式", "not at all": "不计算", "price of a million tokens": "每百万词元价格", electricity: "按电费", "Prompt, a million": "提示，每百万", "Cached, a million": "缓存，每百万",
  "Answer, a million": "回答，每百万", Currency: "货币", "Watts at work": "工作功率（瓦）", "Price of a kWh": "每千瓦时电价",
  "This page": "此页面", Colours: "配色", system: "跟随系统", light: "浅色", dark: "深色", Language: "语言", browser: "跟随浏览器",
  "API key, where the server asks for one": "API 密钥（服务器要求时填写）", "Keep the key in this browser": "在此浏览器中保留密钥",
  "They are kept in this browser and nowhere else.": "对话仅保存在此浏览器中，不会存到别处。", "This one as Markdown": "导出本对话为 Markdown", "This one as JSON": "导出本对话为 JSON", "All as JSON": "全部导出为 JSON",
  Import: "导入", "File to import": "要导入的文件", "Delete all": "全部删除", "{n} conversations imported": "已导入 {n} 个对话", "{n} conversations deleted": "已删除 {n} 个对话",
  Server: "服务器", Context: "上下文", "Cache a token": "每词元缓存", "Cache in all": "缓存总量", "Cache of this conversation": "本对话的缓存", "{name} (not served now)": "{name}（目前未提供）",
  Label: "标识", Moderation: "内容审核", Watermark: "水印", Log: "日志", "Texts, for {n} days": "记录文本，保存 {n} 天", "Hashes of texts, for {n} days": "记录文本的哈希，保存 {n} 天",
  // files
  "The answers in this file were generated by AI.": "此文件中的回答由人工智能生成。", "unknown model": "未知模型", "This is no JSON file.": "这不是 JSON 文件。", "This file was not exported from this page.": "此文件不是从本页面导出的。",
  "This file is damaged: a conversation does not hang together.": "文件已损坏：其中一个对话不完整。",
  // keyboard
  "Send the message": "发送消息", "New line": "换行", "Edit the last message (in an empty box)": "编辑上一条消息（输入框为空时）", "Stop the answer, or close what is open": "停止回答，或关闭打开的面板", "This list": "本列表",
};
